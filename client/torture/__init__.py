"""Authors for `skerry torture`: programs that edit at random and write down what they were promised."""

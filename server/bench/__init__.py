"""`skerry bench`: what Skerry costs, side by side with what people would pick instead, on one machine in one run."""

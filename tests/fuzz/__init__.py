"""Fuzzing of every decoder that meets the outside: `python -m tests.fuzz --help`.

`decoders` says what is fuzzed, what may be raised and what is done with what is accepted; `mutation` makes inputs;
`child` judges them in a process of its own; `campaign` runs children and finds out what killed one; `corpus/` holds
what was ever found, minimised, and is replayed by every test run.

An input's number and the seed make it: nothing but two numbers crosses the border, and a finding is told by them.
"""

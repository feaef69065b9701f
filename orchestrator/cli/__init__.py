"""The command line: one module for each group of commands. A command parses, calls one function and prints."""

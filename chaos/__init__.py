"""`make chaos`: load on a private copy of the whole system, faults drawn from a seed, and a checker's verdict.

Nothing of the program imports this package. It drives the program only from outside: HTTP, websockets, signals, and a
proxy on the way to what the program depends on.
"""

"""The engine: pure. No socket, disk, clock, log or random number lives here (law 7).

Time comes in as an argument, effects go out as values (`sync.step`). The daemons in `server/`, the client and the
simulator drive these same machines.
"""

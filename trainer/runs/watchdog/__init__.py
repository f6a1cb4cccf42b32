"""The watchdog of a rank: when a run stalls, it names the rank that stalls it and where.

Collectives wait: one rank that hangs, is stopped or dies leaves the others waiting for half an hour, and then all of
them complain. Here every rank writes a heartbeat into the run folder each second (``signs``). One that has made no
progress itself reads the signs of the others: a process that is gone is named within seconds, one that gives no sign or
is behind when ``training.timeout_s`` is over (``attribution``, a function of what was observed). The first to know
writes ``outcome.json`` (``report``) and all leave, so that the launcher ends (``watcher``, the thread).
"""

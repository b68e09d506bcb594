"""Jobs: clone, fine-tune and evaluate as work that outlives who asked for it.

    asked -> queued -> running -> done | failed | cancelled

`requests` says what can be asked, `queue` keeps the rows, `runner` works on one at a time, each in a process of its own
(`work`) that calls the functions of the commands.
"""

"""The conformance kit: what any docked centre must do, tried with small real jobs; one suite for every adapter.

kit.py                          a check, what it is judged on, what it runs against
texts.py endings.py shapes.py   jobs that are submitted together and judged when they have ended
acts.py looks.py records.py     holds, cancels, fences; what queue, accounting and logs show
wire.py rules.py faults.py      the docking itself; policy and orders; what only a laboratory can provoke
run.py report.py                the suite, and its signed report
"""

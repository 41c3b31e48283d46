"""What runs at a centre: `penstock-site`. It answers the five interfaces by the centre's own adapter and own rules.

home.py                     the centre's folder, and everything composed from it
desk.py                     one call, from its signature to its answer
gate.py                     the centre's policy, enforced
journal.py audit.py         what was done for each request id; every call, hash-chained
opening.py                  orders: the centre's approval queue
service.py agent.py         the desk as an HTTP service, or dialling out and pulling work
halt.py                     the one switch
conformance/                what any docked centre must do, as checks with a signed report
detect.py checks.py cli.py  `penstock-site init | check | serve | connect | conformance | stop …`
"""

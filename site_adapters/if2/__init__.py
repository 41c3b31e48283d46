"""IF2, the five interfaces over a wire: what both sides share, and the gateway's side of it.

    codec.py verbs.py wire.py   frozen values as JSON; the verbs, read off the Protocols; calls, answers, errors
    profile.py                  what a centre tells of itself and its docking
    keys.py tokens.py           both sides' keys and their rotation; short-lived signed tokens
    channel.py client.py        how calls travel; the five interfaces of a docked centre

The centre's side is `site_adapters/centre`.
"""

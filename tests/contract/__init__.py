"""One suite for every SiteAdapter: the five interfaces, run unchanged on local, on each way to dock a Slurm, on yours.

How to add a centre (a real scheduler or an emulator):

1. Write `tests/contract/<name>_centre.py` with a generator `def <name>(request, folder) -> Iterator[Centre]` that
   starts what is needed, yields one `Centre` (see `centre.py`) and stops what it started. `centre_of(site, …)` makes
   one from a site file's content, with the adapter that `site_adapters.registry.dock` makes of it.
2. Name it in `conftest.CENTRES`. It is made once for a run of the tests; every test brings tags and files of its own.
3. What your lab cannot do stays None (`down`, `busy`, `rename`, `requeue`, `reserve`), and the tests that need it are
   skipped with that word. What the *adapter* cannot do is missing from its `capabilities`, and is tested to be
   `Unsupported`: a skip is never how an ability is left out.

How answers are lost: `Centre.breakage` stands between the adapter and its logins (`breakage.py`). `cut()` lets the
command run and loses its answer; `late()` keeps the command back, to `land()` it when the test says so. It works for
every adapter that logs in; one that speaks HTTP gives its own object with the same two methods (see `RestBreakage`).

Runs are counted by what they did: each run of `Work.script` appends a line to a file (`work.runs()`), whatever the
scheduler or the adapter believes.

    .venv/bin/python -m pytest -q tests/contract -k local        # one centre
"""

"""Kill the process that runs the ticks, at named points and at any moment, and count what the jobs did.

zygote.py (forks pre-imported children, kills them)  worker.py (a child: the ticks with kill points)
campaign.py (feeds jobs, orders deaths, counts)  test_campaign.py, test_failover.py, test_restore.py
"""

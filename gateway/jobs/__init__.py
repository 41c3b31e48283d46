"""Jobs: what people asked for, how it goes through a site, and how that is told.

lifecycle   the state machine, pure             request   a wish + limits -> a prepared job, or all reasons
service     accept, wish, modify, decide        dispatch  tick: hand over (intent, submit, answer)
lookup      answers that were lost              wishes    cancel, hold, release, modify at the site
watch       tick: what became of it             identity  is this native id still ours?
line        who is next, pure                   pending   why it waits, in words
repository  the SQL of all of these             views     the read side
"""

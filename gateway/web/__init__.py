"""The web pages: a list of jobs, one job, the sites. Forms and links work without JavaScript."""

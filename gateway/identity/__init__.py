"""Who is who and who may what: users, projects, tokens, site accounts; `access.can` decides everything."""

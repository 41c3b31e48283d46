"""The thin conductor over accounting: the gateway's provisional charge, the centre's records that replace it."""

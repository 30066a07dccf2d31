"""`graft X`: one thin file for each command, and the door that finds it."""

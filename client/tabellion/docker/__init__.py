"""The engine wrapper: verify, pull by digest, then run the command as given."""

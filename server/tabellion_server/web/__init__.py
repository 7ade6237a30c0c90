"""The HTTP edge: routes, thin handlers, one problem map."""

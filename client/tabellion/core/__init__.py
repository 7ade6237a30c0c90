"""The trust rules: pure functions over bytes, keys, a moment and limits.

Nothing here opens a file or socket, reads a clock or logs; import-linter holds that.
"""

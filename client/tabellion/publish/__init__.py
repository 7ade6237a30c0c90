"""Publishing: keys, staged changes, signing, uploading."""

"""What the server does: publishing and renewing."""

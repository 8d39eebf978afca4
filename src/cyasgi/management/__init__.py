"""What Django finds of cyasgi by its name in INSTALLED_APPS."""

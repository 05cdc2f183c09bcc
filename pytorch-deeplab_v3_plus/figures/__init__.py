"""Every picture that the project draws."""

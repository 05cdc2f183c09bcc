"""What knows no image and no network: errors, arguments, files, logs, devices, processes."""

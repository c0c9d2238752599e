"""Files that are whole or absent, and files from elsewhere that are read with care."""

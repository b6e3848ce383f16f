"""What the report says, one section a file, ready to be written as HTML or Markdown."""

"""The report's contents, a section a file, independent of HTML and Markdown."""

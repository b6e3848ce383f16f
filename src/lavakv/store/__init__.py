"""Where surviving keys and values live; `layout.md` beside this file defines the words and axes."""

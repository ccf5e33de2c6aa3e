"""Images: names and records, pull, push, archives, unpacking, and the collection of what nothing refers to."""

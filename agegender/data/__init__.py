"""From files to pixels and labels."""

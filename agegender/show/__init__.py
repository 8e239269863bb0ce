"""Pictures and pages from what was measured; nothing is counted here."""

"""Which release of a runtime first ran what: tables that make a runtime floor checkable."""

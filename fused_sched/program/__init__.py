"""Programs: how a schedule is written down, built, and put to work on a device."""

"""The bench of a whole core: random GEMMs, a bus driver, a monitor of the bus rules and a scoreboard."""

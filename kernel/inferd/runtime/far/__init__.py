"""Workers on other hosts: their agents, and the exchanges of frames with them. Both ends of an exchange are here."""

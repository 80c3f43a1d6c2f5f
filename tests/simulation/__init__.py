"""A world from one seed: real machines and codecs; simulated clock, disks, log, bus and people."""

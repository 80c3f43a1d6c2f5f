"""Tests of the client: its store, its documents, its link; in the end against real edges."""

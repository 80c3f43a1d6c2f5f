"""The daemons: everything that touches the world. Imports `sync`, never `client`."""

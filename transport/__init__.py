"""Links between hosts: one HTTP/2 client per peer, one server, frames of CBOR messages."""

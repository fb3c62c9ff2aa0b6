"""Writes countries.mmdb, the database of countries that the tests look addresses up in.

    python3 tests/data/countries.py

The format is MaxMind DB 2.0: a binary tree over the bits of an IPv6 address (IPv4 below ::/96), a data
section, and metadata. Nothing but the standard library is needed.
"""

import ipaddress
import pathlib
import struct

# Addresses that are kept for documentation, and who is said to have them: country, then registered country.
NETWORKS = [
    ("192.0.2.0/24", "DE", "DE"),
    ("198.51.100.0/24", "KP", "KP"),
    ("203.0.113.0/24", None, "CU"),
    ("2001:db8:c0::/48", "CU", "CU"),
    ("2001:db8:de::/48", "DE", "CU"),
]


def encode(value):
    if isinstance(value, dict):
        fields = b"".join(encode(key) + encode(item) for key, item in value.items())
        return bytes([7 << 5 | len(value)]) + fields
    if isinstance(value, list):
        return bytes([len(value), 11 - 7]) + b"".join(map(encode, value))
    if isinstance(value, str):
        return bytes([2 << 5 | len(value)]) + value.encode()
    kind, size, number = value
    digits = number.to_bytes(size, "big").lstrip(b"\0")
    if kind > 7:
        return bytes([len(digits), kind - 7]) + digits
    return bytes([kind << 5 | len(digits)]) + digits


def uint16(number):
    return (5, 2, number)


def uint32(number):
    return (6, 4, number)


def uint64(number):
    return (9, 8, number)


def bits(network):
    network = ipaddress.ip_network(network)
    below = 96 if network.version == 4 else 0
    address = int(network.network_address)
    return [address >> (127 - bit) & 1 for bit in range(below + network.prefixlen)]


def main():
    nodes, data = [[None, None]], b""
    for network, country, registered in NETWORKS:
        record = {"registered_country": {"iso_code": registered}}
        if country:
            record["country"] = {"iso_code": country}
        path, node = bits(network), 0
        for bit in path[:-1]:
            if nodes[node][bit] is None:
                nodes.append([None, None])
                nodes[node][bit] = len(nodes) - 1
            node = nodes[node][bit]
        nodes[node][path[-1]] = ("data", len(data))
        data += encode(record)

    def pointer(record):
        if record is None:
            return len(nodes)
        return record if isinstance(record, int) else len(nodes) + 16 + record[1]

    tree = b"".join(struct.pack(">I", pointer(record))[1:] for node in nodes for record in node)
    metadata = {
        "binary_format_major_version": uint16(2),
        "binary_format_minor_version": uint16(0),
        "build_epoch": uint64(1763856000),
        "database_type": "Tollgate-Test-Country",
        "description": {"en": "Countries for tests"},
        "ip_version": uint16(6),
        "languages": ["en"],
        "node_count": uint32(len(nodes)),
        "record_size": uint16(24),
    }
    file = tree + bytes(16) + data + b"\xab\xcd\xefMaxMind.com" + encode(metadata)
    pathlib.Path(__file__).with_suffix(".mmdb").write_bytes(file)


main()

"""The public keys of small order of both curves.

Sources: https://cr.yp.to/ecdh.html#validate (X25519); https://eprint.iacr.org/2020/1244 (Ed25519).
"""

from __future__ import annotations

_P = 2**255 - 19
_SIGN = 2**255

_X_OF_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
X25519_KEYS = [
    value.to_bytes(32, "little") for value in (0, 1, *_X_OF_ORDER_8, _P - 1, _P, _P + 1, 2**255, 2**255 + 1)
]
"""The X25519 public keys whose shared value is all zeros, whatever the private key is."""

_Y_OF_ORDER_8 = (
    0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826,
    0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7,
)
ED25519_KEYS = [
    (y | sign).to_bytes(32, "little")
    for y in (0, 1, _P - 1, _P, _P + 1, *_Y_OF_ORDER_8)
    for sign in (0, _SIGN)
]
"""The 14 encodings of Ed25519 points of small order: y = 0, 1 and -1, reduced and unreduced, and order 8."""

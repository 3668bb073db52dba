"""Public keys of small order, for both curves, computed with an arithmetic of our own.

Source: RFC 7748 section 6.1 and https://cr.yp.to/ecdh.html#validate (X25519); RFC 8032 section 5.1 (Ed25519).
"""

from __future__ import annotations

from typing import Optional

_P = 2**255 - 19
_ORDER_8 = (
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
)
X25519_KEYS = [
    value.to_bytes(32, "little") for value in (0, 1, *_ORDER_8, _P - 1, _P, _P + 1, 2**255, 2**255 + 1)
]
"""The X25519 public keys whose shared value is all zeros, whatever the private key is."""

# Points of the curve -x^2 + y^2 = 1 + d x^2 y^2 over the integers modulo _P.
_Point = tuple[int, int]
_D = -121665 * pow(121666, -1, _P) % _P
_PRIME_ORDER = 2**252 + 27742317777372353535851937790883648493


def _add(one: _Point, other: _Point) -> _Point:
    (x1, y1), (x2, y2) = one, other
    both = _D * x1 * x2 * y1 * y2
    x = (x1 * y2 + x2 * y1) * pow(1 + both, -1, _P)
    y = (y1 * y2 + x1 * x2) * pow(1 - both, -1, _P)
    return x % _P, y % _P


def _multiply(point: _Point, factor: int) -> _Point:
    product = (0, 1)
    while factor:
        if factor & 1:
            product = _add(product, point)
        point = _add(point, point)
        factor >>= 1
    return product


def _point_with(y: int) -> Optional[_Point]:
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    root = pow(square, (_P + 3) // 8, _P)
    for x in (root, root * pow(2, (_P - 1) // 4, _P) % _P):
        if x * x % _P == square:
            return x, y
    return None


def _encodings(point: _Point) -> set[bytes]:
    """Return every encoding that decodes to the point: y also over _P, and either sign where x is 0."""
    x, y = point
    signs = {x & 1} if x else {0, 1}
    return {
        (high | sign << 255).to_bytes(32, "little") for high in (y, y + _P) if high < 2**255 for sign in signs
    }


def _small_order_points() -> set[_Point]:
    """Return the eight points whose order divides 8."""
    points: set[_Point] = set()
    for y in range(2, 200):
        point = _point_with(y)
        if point is not None:
            points.add(_multiply(point, _PRIME_ORDER))
        if len(points) == 8:
            break
    return points


ED25519_KEYS = sorted(set().union(*map(_encodings, _small_order_points())))
"""The Ed25519 public keys of small order, canonical or not."""
ED25519_POINTS = sorted(min(_encodings(point)) for point in _small_order_points())
"""One encoding of each point of small order."""

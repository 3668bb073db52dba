"""Values of every message, for hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from offset_common.wire import fields, messages

# Zero bytes and long runs of them, because packing encodes these in a special way.
_BYTE_RUNS = st.lists(
    st.one_of(st.binary(max_size=40), st.integers(0, 600).map(bytes), st.just(b"\x00"), st.just(b"\xff" * 9))
)
DATA = st.one_of(st.binary(max_size=100), _BYTE_RUNS.map(b"".join))


def fixed(size: int) -> st.SearchStrategy[bytes]:
    """Fixed byte strings, among them some with zero bytes and all zero."""
    return st.one_of(st.binary(min_size=size, max_size=size), st.just(bytes(size)))


REKEYS = st.builds(messages.Rekey, fixed(32), fixed(32))
BY_KIND: dict[type[fields.Message], st.SearchStrategy[fields.Message]] = {
    messages.ExchangeRandNonce: st.builds(
        messages.ExchangeRandNonce, fixed(16), fixed(32), st.none() | fixed(32)
    ),
    messages.ExchangeDh: st.builds(messages.ExchangeDh, fixed(32), fixed(16), fixed(32), fixed(64)),
    messages.ChannelMessage: st.builds(messages.ChannelMessage, DATA, st.one_of(REKEYS, DATA)),
    messages.KaMessage: st.builds(messages.KaMessage, st.none() | DATA),
    messages.InitConnection: st.one_of(
        st.just(messages.InitConnection(messages.InitRole.LISTEN)),
        st.builds(
            messages.InitConnection,
            st.sampled_from([messages.InitRole.ACCEPT, messages.InitRole.CONNECT]),
            fixed(32),
        ),
    ),
    messages.RejectConnection: st.builds(messages.RejectConnection, fixed(32)),
    messages.IncomingConnection: st.builds(messages.IncomingConnection, fixed(32)),
}
KINDS = list(BY_KIND)

@0xb8e1c07d52f9a364;

# The messages that a tunnel's frame is made of: docs/protocol.md, section 3.1.

struct Bytes32 { x0 @0 :UInt64; x1 @1 :UInt64; x2 @2 :UInt64; x3 @3 :UInt64; }
struct PublicKey { inner @0 :Bytes32; }

struct Rekey { dhPublicKey @0 :PublicKey; keySalt @1 :PublicKey; }
struct ChannelContent { union { rekey @0 :Rekey; user @1 :Data; } }
struct ChannelMessage { randPadding @0 :Data; content @1 :ChannelContent; }
struct KaMessage { union { keepAlive @0 :Void; message @1 :Data; } }

@0xa4d1b6c2e5f70913;

# The messages of docs/protocol.md, section 3.1, for the independent Cap'n Proto of the tests.

struct Bytes16 { x0 @0 :UInt64; x1 @1 :UInt64; }
struct Bytes32 { x0 @0 :UInt64; x1 @1 :UInt64; x2 @2 :UInt64; x3 @3 :UInt64; }
struct Bytes64 {
  x0 @0 :UInt64; x1 @1 :UInt64; x2 @2 :UInt64; x3 @3 :UInt64;
  x4 @4 :UInt64; x5 @5 :UInt64; x6 @6 :UInt64; x7 @7 :UInt64;
}

struct PublicKey { inner @0 :Bytes32; }
struct DhPublicKey { inner @0 :Bytes32; }
struct Salt { inner @0 :Bytes32; }
struct RandValue { inner @0 :Bytes16; }
struct Signature { inner @0 :Bytes64; }

struct ExchangeRandNonce {
  randNonce @0 :RandValue;
  srcPublicKey @1 :PublicKey;
  optDestPublicKey :union { empty @2 :Void; publicKey @3 :PublicKey; }
}

struct ExchangeDh {
  dhPublicKey @0 :DhPublicKey;
  randNonce @1 :RandValue;
  keySalt @2 :Salt;
  signature @3 :Signature;
}

struct Rekey { dhPublicKey @0 :DhPublicKey; keySalt @1 :Salt; }
struct ChannelContent { union { rekey @0 :Rekey; user @1 :Data; } }
struct ChannelMessage { randPadding @0 :Data; content @1 :ChannelContent; }
struct KaMessage { union { keepAlive @0 :Void; message @1 :Data; } }
struct InitConnection { union { listen @0 :Void; accept @1 :PublicKey; connect @2 :PublicKey; } }
struct RejectConnection { publicKey @0 :PublicKey; }
struct IncomingConnection { publicKey @0 :PublicKey; }

# The same messages as other versions of the protocol might have them: what is new comes last.

struct LongPublicKey { inner @0 :Bytes64; more @1 :Data; }

struct LongKaMessage {
  union { keepAlive @0 :Void; message @1 :Data; }
  number @2 :UInt64;
  more @3 :Data;
}

struct LongIncomingConnection { publicKey @0 :LongPublicKey; number @1 :UInt64; more @2 :Data; }

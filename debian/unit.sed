# Makes the unit of the package from deploy/offset-relay.service.
1c # The options are in /etc/offset-relay/relay.toml.
s|^ExecStart=.*|ExecStart=/usr/bin/strelay --config /etc/offset-relay/relay.toml --idfile ${CREDENTIALS_DIRECTORY}/relay.ident|
s|^LoadCredential=.*|LoadCredential=relay.ident:/var/lib/offset-relay/relay.ident|
/^DynamicUser=/a # For `usage` in relay.toml.\
StateDirectory=offset-relay/usage

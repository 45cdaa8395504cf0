// Package auth says who is at the door of the HTTP gateway, and what they may do: publish, subscribe to, read, operate or
// register event types.
//
//	door, err := auth.Load("policy.yaml")
//	p, err := door.Authenticate(request) // bearer token, JWT or client certificate
//	ok := p.May(auth.Publish, "medication.prescription.filled")
//
// # The policy file
//
//	issuers:
//	  - issuer: https://login.example.org/realms/care
//	    audience: carebus
//	    jwksURL: https://login.example.org/realms/care/keys    # or jwksFile: keys.json
//	    claim: azp                                            # names the principal; default sub
//	roles:
//	  pharmacy:
//	    publish: [medication.prescription.filled]
//	    subscribe: [medication.**]
//	principals:
//	  - name: pharmacy-service
//	    tokens: ["sha256:3f…"]                                 # of carebus token new
//	    subjects: [pharmacy-client]                           # values of the claim
//	    certificates: [pharmacy.example.org]                  # names in a client certificate
//	    roles: [pharmacy]
//	    read: ["patient.*"]
//	    rate: {perSecond: 500, burst: 1000}
//
// Everything that is not granted is denied. Patterns are those of package bus: "medication.prescription.*" for the actions of
// one entity, "medication.**" for a domain, "**" for all but the platform's own events, which only patterns that begin with
// "platform" grant. The file is strict: a member that it does not know is an error with its line.
//
// # Credentials
//
// A bearer token is a secret of which the file has only the SHA-256, so that reading the file does not let anybody in. A
// JWT must be signed with RS256/384/512, PS256/384/512, ES256/384/512 or EdDSA by a key of the issuer named in it, be meant
// for the audience, and be valid now, give or take a minute. A client certificate counts when the TLS handshake has
// verified it, and names its holder by its subject alternative names: DNS or URI.
//
// A client learns only that its credentials were not accepted, never why: the log does.
package auth

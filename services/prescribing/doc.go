// Package prescribing is the prescribing service: it makes prescriptions known, and says where they stand when payers have
// answered.
//
//	now, err := prescribing.Do(ctx, p, "RX1", prescribing.Create{…})
//	err = prescribing.Join(ctx, p)
//
// It knows events, and no other service: an approval makes a prescription ready, whoever states it.
package prescribing

// Package pharmacy is the pharmacy service: its stock.
//
//	stock, err := pharmacy.Do(ctx, p, "PHARM123", ndc, pharmacy.Receive{Quantity: 500})
//	stock, err = pharmacy.Do(ctx, p, "PHARM123", ndc, pharmacy.Reserve{ID: "RX1", Quantity: 30})
//
// The stock of a drug at a pharmacy is an entity made of its events. What is reserved cannot be reserved or taken by
// anybody else, and neither what is there nor what is available is ever below zero. Reserving, releasing and
// dispensing may be repeated: a saga that is not sure says it again.
package pharmacy

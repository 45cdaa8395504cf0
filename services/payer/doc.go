// Package payer decides prior authorization requests by rules that are data.
package payer

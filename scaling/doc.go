// Package scaling tells how large a deployment must be: a discrete-event simulation of one database with its processes,
// and a calculation of how many of them, and of partitions and brokers, a load needs.
package scaling

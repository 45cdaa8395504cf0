// Package saga runs work that takes several steps, in several places, over minutes or weeks, and either completes or is
// undone.
package saga

// Package portal is the patient portal's part in the choreography: it tells patients where their prescriptions stand, once
// for each news.
package portal

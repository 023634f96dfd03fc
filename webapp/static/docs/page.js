"use strict";
// The viewer reads OpenAPI 3.0, so the page has a document of its own. No validator: nothing leaves this server.
window.ui = SwaggerUIBundle({
  url: "/docs/openapi.json",
  dom_id: "#routes",
  presets: [SwaggerUIBundle.presets.apis],
  layout: "BaseLayout",
  validatorUrl: null,
  docExpansion: "list",
  defaultModelsExpandDepth: 0,
  displayRequestDuration: true,
  persistAuthorization: false,
  tryItOutEnabled: true,
});
